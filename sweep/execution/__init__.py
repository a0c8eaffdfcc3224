"""The worker processes that do the native work, the jobs they are given, and the loop that drives them."""
