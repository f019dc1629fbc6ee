"""Easy to hard: networks trained on easy problems that solve harder ones with more iterations.

:mod:`~zpyro_examples.easy_to_hard.networks` holds the networks,
:mod:`~zpyro_examples.easy_to_hard.programs` the Pyro programs around them,
:mod:`~zpyro_examples.easy_to_hard.tasks` the interface of tasks; each task has a module.
"""
