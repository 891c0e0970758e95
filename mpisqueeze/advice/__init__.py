"""`mpisqueeze advise`: whether compressed or decentralized SGD pays off here, found out within a budget of time.

`candidates` says who takes part, `scheme` how the budget is spent, `race` which run comes next, `verdict` what the runs
tell, and `running` carries it all out on the ranks. Only `running` needs MPI.
"""
