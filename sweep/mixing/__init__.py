"""The best mix of types under a number of bytes: groups of tensors, what each costs in each type, and the choice."""
