"""
The demo: real worker processes, a real server, a real kill, and proof from outside that nothing was lost or redone.

    app      the example app `workers/etl` that is run; there is one copy of it, which the wheel carries
    ledger   what the bodies of its steps wrote down beside redurable
    crew     the workers, and how one of them is killed
    play     the whole, from the undisturbed run to the verdict

What people see of it is the command line's: this package prints nothing.
"""
