// Command bench measures what the gateway costs and what it gives, and writes the table
// into the README.
//
//	              ┌── direct ──────────────────────────┐
//	client ───────┤                                    ├──▶ origin: tokens, blob host,
//	(this process)├── sluice serve ────────────────────┤    200 Mbit/s and 20 ms, or unshaped
//	              └── registry serve (pull-through) ───┘    (this process)
//
// First pulls are made by one client, directly and through a gateway that was started
// for that pull alone: its state is empty but for the vulnerability database, and its
// worker is warm. Crowds and memory are measured the same way, and the time from the last
// byte to the decision, which the gateway tells by its metrics, against the commands of
// syft and grype. Warm throughput is that of a gateway and of distribution's registry
// as a pull-through cache, both of which hold all they are asked for.
//
// # Why
//
// Ratios of interleaved runs on one machine say more than seconds: whatever else the
// machine does slows both sides, and medians drop what it did once.
//
// A run counts only when it did what it should: every digest is right, the gateway's
// verdict is complete and allows the image, and the origin has sent every blob once.
// Anything else ends the program without a table.
//
// The client drops what it has checked, since a disk that is slower than the network
// would hide what is measured here.
package main
