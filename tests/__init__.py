"""Tests of the package; a package itself so that `python -m tests.fuzz` finds this folder and no other one."""
