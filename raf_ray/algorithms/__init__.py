"""How local steps and the server's update combine. One file a method, its parameters frozen beside it."""
