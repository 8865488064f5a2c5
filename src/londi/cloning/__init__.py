"""Training language models of the built-in pairs from nothing: demonstrations, tokenizers, behaviour cloning."""
