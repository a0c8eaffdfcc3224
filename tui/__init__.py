"""The terminal screen, built on the same plan, events and store as the command line.

`screens/` has one module a screen, `widgets/` what they are put together from. Nothing is computed here: slow work is
done by workers and child processes, which tell the screens what came of it.
"""
