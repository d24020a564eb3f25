"""The whole chain on one machine: digits drawn twice, networks trained on each and on real ones, all tested."""
