"""Three real sites on one machine: hosts with their own network, processes, root and disk, made from
nothing but the kernel and reached as real hosts are: by Ansible over ssh.

    plan.py       names, addresses, paths: pure, everything else follows from it
    preflight.py  what is missing, said before anything is made
    network.py    namespaces, a bridge, cables
    disk.py       a loop-mounted ext4 image a site; the power switch
    layer.py      what all hosts share (the Python environment), kept by a hash of what made it
    host.py       start, kill, freeze a host
    identity.py   certificates, passwords, ssh keys of a stack
    snapshot.py   the lab as it was made, for `reset`
    provision.py  inventory and variables for Ansible
    lab.py        up, reset, down, status
    leftovers.py  what a lab leaves on a machine, found by looking and not by remembering
"""
