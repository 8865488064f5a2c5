"""Training the built-in pair from nothing: demonstrations, tokenizer, behaviour cloning."""
