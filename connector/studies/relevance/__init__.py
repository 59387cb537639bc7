"""What the frozen LLM's signals are worth, asked on train queries: commands behind the signals log."""
