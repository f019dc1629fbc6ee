"""Private: fast forms of the recurrence, and the products, graphs and C++ library they use."""
