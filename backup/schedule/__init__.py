"""Backups at their time: once a slot, on one host, also after a night without power, and told when not.

`model` says what a job is, `calendar` when its slots are, `plan` what is due (pure), `state` what was decided,
`lease` and `slot` keep two hosts from doing one slot twice, `perform` does one, `service` is the loop.
`temporal` runs the same jobs as workflows, beyond one machine.
"""
