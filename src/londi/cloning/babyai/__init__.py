"""Training the BabyAI-Text pair from nothing: demonstrations of the bot, phrases as tokens, symmetric copies."""
