"""The four base databases and the health code's, filled with people who do not exist.

Everything is a pure function of (generation, seed, scale): two loads of the same three are equal to the
last byte, so a restore, a standby or a failback can be compared with the original by counting and adding.
"""
