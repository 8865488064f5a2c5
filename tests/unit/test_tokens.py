"""From prompts and candidates to ids: special tokens, chat templates, short contexts, and what can't be told apart."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from folders import CANDIDATES, WORDS, read, tokenizer
from tokenizers.processors import TemplateProcessing

from londi.errors import ConfigError, ModelError
from londi.lms.base import split_thought
from londi.lms.tokens import Tokens
from londi.prompt import Prompt, PromptTemplate


def test_a_prompt_gets_its_special_tokens_once() -> None:
    assert read(Tokens(tokenizer(), "m").prompts(["go left"], 0)[0]) == "go left"
    assert read(Tokens(tokenizer(bos=True), "m").prompts(["go left"], 0)[0]) == "<s> go left"
    chat = Tokens(tokenizer(chat=True, bos=True), "m")
    assert read(chat.prompts(["go left"], 0)[0]) == "<s> user : go left end assistant :"


def test_a_chat_template_is_used_as_told() -> None:
    never = Tokens(tokenizer(chat=True), "m", chat="never")
    assert read(never.prompts(["go left"], 0)[0]) == "go left"
    told = Tokens(tokenizer(chat=True), "m", system="obs", template={"think": "none"})
    assert read(told.prompts(["go"], 0)[0]) == "<s> system : obs end user : go end think none assistant :"
    with pytest.raises(ConfigError, match="no chat template"):
        Tokens(tokenizer(), "m", chat="always")
    with pytest.raises(ConfigError, match=r"env\.prompt\.instructions"):
        Tokens(tokenizer(), "m", system="obs")


def test_candidates_follow_the_prompt_without_special_tokens() -> None:
    for made in (tokenizer(), tokenizer(bos=True), tokenizer(chat=True, bos=True)):
        assert [read(ids) for ids in Tokens(made, "m").candidates(CANDIDATES, 3)] == list(CANDIDATES)
    assert read(Tokens(tokenizer(), "m").candidates(("go", "go left"), 3)[0]) == "go </s>"


class Marking:
    """A tokenizer that marks the first word of a text, as those of Llama 2 do."""

    def __call__(self, text: Any, add_special_tokens: bool = True) -> Any:
        words = enumerate(text.replace(":", ": ").split())
        return SimpleNamespace(input_ids=[hash(word) if i else -hash(word) for i, word in words])


def test_candidates_are_split_as_they_are_after_a_prompt() -> None:
    assert Tokens(Marking(), "m").candidates(("go left",), 0) == [[hash("go"), hash("left")]]


def long_prompt(turns: int = 6) -> Prompt:
    template = PromptTemplate(layout="transcript")
    return template.render("ball", [f"wall {i}" for i in range(turns)], ["go left"] * (turns - 1))


def test_what_is_too_long_loses_its_oldest_observations_and_says_so_once() -> None:
    whole = read(Tokens(tokenizer(), "m").prompts([long_prompt()], 0)[0])
    tokens = Tokens(tokenizer(), "m", context=len(whole.split()) - 1 + 4)
    with pytest.warns(UserWarning, match="oldest observations \\(here 1\\)"):
        (ids,) = tokens.prompts([long_prompt()], 4)
    assert read(ids) == whole.replace("obs : wall 0 act : go left ", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokens.prompts([long_prompt()], 4) == [ids]
    last = Tokens(tokenizer(), "m", context=10)
    with pytest.warns(UserWarning, match="here 5"):
        assert read(last.prompts([long_prompt()], 0)[0]) == "goal : ball obs : wall 5 act :"


@pytest.mark.parametrize("context", range(12, 60, 7))
def test_no_more_is_left_out_than_has_to_be(context: int) -> None:
    tokens = Tokens(tokenizer(), "m", context=context)
    shown = [long_prompt(40).without_oldest(count) for count in range(1, 40)]
    with pytest.warns(UserWarning, match="oldest observations"):
        found = read(tokens.prompts([long_prompt(40)], 0)[0])
    texts = [read(tokens._encode([prompt])[0]) for prompt in shown if prompt]
    assert found == next(text for text in texts if len(text.split()) <= context)


def test_what_can_not_be_shortened_is_refused() -> None:
    for prompt in (str(long_prompt()), long_prompt(1)):
        with pytest.raises(ModelError, match="show fewer observations"):
            Tokens(tokenizer(), "m", context=8).prompts([prompt], 0)


def test_a_thought_is_split_off() -> None:
    assert split_thought("go left") == ("", "go left")
    assert split_thought("<think>\nthe ball\n</think>\n\ngo left") == ("the ball", "go left")
    assert split_thought("<think> I could go left, or") == ("I could go left, or", ""), "cut off"
    assert split_thought("the ball </think>go left") == ("the ball", "go left")


# What can't be chosen from --------------------------------------------------------------------------------------------


def test_candidates_that_can_not_be_scored_are_refused() -> None:
    tokens = Tokens(tokenizer(), "m")
    for candidates, why in {
        (): "no candidates",
        ("go left", ""): "no tokens for ''",
        ("go north", "left", "go south"): "can't tell 'go north' and 'go south' apart",
    }.items():
        with pytest.raises(ModelError, match=why):
            tokens.candidates(candidates, 3)
    assert tokens.candidates(("go", "go"), 3) == [[WORDS.index("go")]] * 2, "twice the same is no harm"
    with pytest.raises(ModelError, match="no end of text"):
        tokens.candidates(("go", "go left"), None)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="no tokens for the prompt ''"):
        Tokens(tokenizer(), "m").prompts(["go left", ""], 0)
    assert read(Tokens(tokenizer(bos=True), "m").prompts([""], 0)[0]) == "<s>"


def test_a_template_that_refuses_is_named() -> None:
    made = tokenizer(chat=True)
    made.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}go"
    with pytest.raises(ModelError, match="the chat template of m refuses the prompt: no system"):
        Tokens(made, "m", system="obs").prompts(["go"], 0)


# Ends -----------------------------------------------------------------------------------------------------------------


def test_an_answer_ends_as_the_chat_template_ends_it() -> None:
    """Of several end tokens; else with the tokenizer's own, else with the model's first."""
    end, own, other = WORDS.index("end"), WORDS.index("</s>"), WORDS.index("ball")
    chat = Tokens(tokenizer(chat=True), "m")
    assert chat.end([own, end]) == end
    assert chat.end([other, own]) == own
    plain = Tokens(tokenizer(), "m")
    assert plain.end([end, own]) == own
    assert plain.end([end, other]) == end
    assert plain.end([]) == own


def test_a_template_may_open_the_thought() -> None:
    made = tokenizer()
    made.add_tokens(["<think>"])
    tokens = Tokens(made, "m")
    assert tokens.thinks(made("go left <think>").input_ids)
    assert not tokens.thinks(made("<think> go left").input_ids)


def test_an_answer_of_a_decoder_begins_as_its_targets_do() -> None:
    """With BART's own first token, but not with the decoder's start, nor with the end, which scoring adds."""
    made = tokenizer()
    special = [("<s>", WORDS.index("<s>")), ("</s>", WORDS.index("</s>"))]
    made.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    bart = Tokens(made, "m", seq2seq=True, start=WORDS.index("</s>"))
    assert [read(ids) for ids in bart.candidates(("go", "go left"), 3)] == ["<s> go", "<s> go left"]
    gemma = Tokens(made, "m", seq2seq=True, start=WORDS.index("<s>"))
    assert read(gemma.candidates(("go left",), 3)[0]) == "go left"
    assert read(Tokens(tokenizer(), "m", seq2seq=True, start=0).candidates(("go left",), 3)[0]) == "go left"
