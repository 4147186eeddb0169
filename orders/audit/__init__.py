"""The auditor: reads stock, money, mail, trail and sagas together and says where they contradict each "
"other."""
