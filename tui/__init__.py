"""The terminal screen (TUI), built on the same plan, events and store as the command line.

`screens/` has one module per screen, `widgets/` the parts of screens, `state/` the data that they share and show.
Results are computed by `sweep`; slow work runs in threads and child processes, which deliver their results to screens.
"""
