"""Images of prompts: reading files, and what a checkpoint's image processor makes of them. No engine, no model."""
