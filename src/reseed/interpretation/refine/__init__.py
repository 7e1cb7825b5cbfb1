"""Search for better explanations, judged on a split that the search never sees (SPaR)."""
