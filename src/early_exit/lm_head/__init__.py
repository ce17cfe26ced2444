"""How decoding reads the LM head: in full, through the tokens that the first exit proposed, or screened."""
