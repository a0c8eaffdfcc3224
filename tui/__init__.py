"""The terminal screen, built on the same plan, events and store as the command line.

`screens/` has one module a screen, `widgets/` what they are put together from, `state/` what they share and show.
Nothing is computed here: slow work is done by threads and child processes, which deliver what they find.
"""
