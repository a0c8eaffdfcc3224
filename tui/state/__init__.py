"""The data of the screens, without widgets: the session, the planned sweep, the results of a run."""
