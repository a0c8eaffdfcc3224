"""What the screens show and change, without a screen: the session, the sweep that is planned, a run's results."""
