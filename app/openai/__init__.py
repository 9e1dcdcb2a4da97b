"""What OpenAI's clients send and are given, whether it comes as a call or in a batch; no HTTP."""
