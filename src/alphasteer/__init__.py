"""AlphaSteer: teach an open-weight chat model to refuse malicious requests, without touching its weights."""
