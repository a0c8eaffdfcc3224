"""From what was asked for to a plan: model, variants, texts and tasks made out, checked, and cut into cells."""
