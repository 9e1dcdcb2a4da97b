"""The local stack: PostgreSQL, Valkey and the parts of GPTQueue as children of one command."""
