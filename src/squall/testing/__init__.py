"""For those who test Squall, or with Squall: a virtual clock, and a simulated machine room that runs the production control code. May import every room."""
