"""Speech as models read it: recordings, transcripts, features, tokens, and word error rates."""
