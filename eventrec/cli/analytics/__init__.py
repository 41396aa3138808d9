"""`analytics`: what a user may look at and decide about an application that records how it is used."""
