"""A plan for scoring many requests that computes every common prefix once.

All requests of a call are the paths of one token trie: few-shot examples, question and the first words of the choices
are shared wherever they are the same. The plan walks the trie depth first, as many leaves at a time as fit into the
cells and sequences there are (a pack), so that memory does not grow with the number of requests. It knows no engine:
it says which tokens to compute, for which sequences, and what to do with the sequences before.

Engines share in one of two ways. With attention alone, a token in the cache may belong to any number of sequences, and
a sequence may be cut anywhere. With a recurrent state, a sequence can only be continued or copied whole: a prefix is
computed exactly up to where branches part, and its state copied to each of them.
"""

from sweep.backends.trie.budget import Budget
from sweep.backends.trie.steps import Step
from sweep.backends.trie.trie_plan import TriePlan, plan

__all__ = ["Budget", "Step", "TriePlan", "plan"]
