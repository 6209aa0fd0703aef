"""Personal data made unreadable in a restored room, and still of its form: what software checks, it may check.

The same input gives the same output under one key, in every table and database, so that joins hold. Numbers
that a person or a company may have are never made: masked ones lie where nothing is assigned.
"""
