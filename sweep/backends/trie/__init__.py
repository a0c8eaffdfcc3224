"""A plan for scoring many requests that computes every common prefix once.

All requests of a call are paths in one token trie, so that equal few-shot examples, questions and beginnings of choices
are shared. The plan walks the trie depth first, in packs: as many leaves as fit into the cells and sequences of the
engine. Memory therefore does not grow with the number of requests. The plan does not use an engine. It says which
tokens to compute, for which sequences, and which sequences to copy, cut or remove before.

Engines share prefixes in one of two ways. With attention alone, a token in the cache can belong to any number of
sequences, and a sequence can be cut anywhere. With recurrent states, a sequence can only be continued or copied as a
whole: a prefix is computed exactly up to the position where branches separate, and its state is copied to each branch.
"""

from sweep.backends.trie.budget import PlanBudget
from sweep.backends.trie.steps import EngineStep
from sweep.backends.trie.trie_plan import TriePlan, plan

__all__ = ["EngineStep", "PlanBudget", "TriePlan", "plan"]
