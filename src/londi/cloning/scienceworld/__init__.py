"""Training a pair for ScienceWorld from nothing: gold paths, demonstrations, tokenizer, behaviour cloning."""
