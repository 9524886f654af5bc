//! Every limit of the program, by name, with the sum that justifies it.

/// Largest transfer of one URB, in bytes: 16 MiB (design: ≥ 4 MiB must work, Linux sends up to
/// 4 MiB in one URB).
pub const TRANSFER_BYTES: u32 = 16 * 1024 * 1024;

/// Most isochronous packets of one URB: the kernel's own limit.
pub const ISO_PACKETS: u32 = 1024;

/// Most URBs of one session that are not answered yet; more are answered -ENOMEM.
pub const SESSION_URBS: usize = 1024;

/// Most bytes of transfer buffers of one session not answered yet; more is answered -ENOMEM.
pub const SESSION_BYTES: usize = 64 * 1024 * 1024;

/// A peer that goes on to this many times [`SESSION_URBS`] or [`SESSION_BYTES`] is cut off.
pub const OVERLOAD_FACTOR: usize = 2;

/// Bus id: at most 31 bytes and a NUL in the 32-byte field.
pub const BUS_ID_BYTES: usize = 31;

/// Most devices in one DEVLIST reply that a client believes.
pub const DEVLIST_DEVICES: u32 = 4096;

/// Largest body of a DEVLIST reply that a client reads, in bytes.
pub const DEVLIST_BYTES: usize = 8 * 1024 * 1024;

/// Replies up to this size, in bytes, header included, are copied into the send buffer and leave
/// together; larger ones leave from their own block, with a send each. An isochronous URB of eight
/// packets of 1 KiB is among the former: copying it costs a tenth of a send.
pub const COALESCED_REPLY_BYTES: usize = 16 * 1024;

/// Size of a connection's send buffer, in bytes. It is filled when no send is in flight.
pub const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Size of a connection's receive buffer, in bytes.
pub const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// Most isochronous usbfs URBs (of up to 128 packets) of one device with the kernel at once; more
/// wait. 64 of the longest URBs: at 8000 packets a second eight seconds.
pub const USBFS_ISO_URBS: usize = 512;

/// Most bytes of DMA memory of one device, where the system's own bound allows it: the same URBs as
/// a session may have, but for those large enough that a copy costs nothing beside them.
pub const USBFS_AREA_BYTES: usize = 16 * 1024 * 1024;

/// Memory of one core, in bytes: eight sessions at their limit, four times over for blocks that are
/// larger than what is asked of them. It is taken from the system on demand.
pub const ARENA_BYTES: usize = 8 * SESSION_BYTES * 4;

/// Priority of a server's cores with `--realtime` (`SCHED_FIFO`, 1 to 99): before all that runs as
/// usual, behind the kernel's interrupt threads (50) and what audio servers take (from 80).
pub const REALTIME_PRIORITY: u8 = 20;

/// Most connections of a server, those that have not said what they want included.
pub const CONNECTIONS: usize = 4096;

/// Most bytes of a peer that are read and thrown away once its connection is over, so that our last
/// answers are not destroyed by a reset: a few bulk URBs that it had sent before it could know.
pub const FAREWELL_BYTES: usize = 1024 * 1024;

/// Most connections of the admin socket.
pub const ADMIN_CONNECTIONS: usize = 16;

/// Longest line that the admin socket takes, in bytes: a request is a few words.
pub const ADMIN_LINE_BYTES: usize = 4096;

/// Sessions up to which a report has the buckets of its latencies, about 1 KiB for each endpoint;
/// a report of more sessions is kept short.
pub const ADMIN_BUCKET_SESSIONS: usize = 64;

/// Longest line that a client of the admin socket takes, in bytes: the report of as many sessions
/// as there may be connections.
pub const ADMIN_REPLY_BYTES: usize = 32 * 1024 * 1024;

/// Longest rule that names devices, in bytes.
pub const RULE_BYTES: usize = 4096;

/// Largest file that a simulated device reads whole, in bytes: 23 minutes of 48 kHz stereo.
pub const SIMULATED_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Most bytes that a simulated device has waiting for its file: at the highest rate of the sound
/// devices (96 kHz of 8 channels of 24 bits) 29 seconds of a disk that stands still.
pub const SIMULATED_SPOOL_BYTES: usize = 64 * 1024 * 1024;

/// Buffers between the bus and the file of one simulated disk, in bytes: two commands of the size
/// that hosts send (1 MiB at SuperSpeed), one on the bus and one on the medium.
pub const DISK_CACHE_BYTES: usize = 2 * 1024 * 1024;

/// Largest simulated disk in memory, in bytes; its host may write to all of it.
pub const RAM_DISK_BYTES: u64 = 4 << 30;

/// Bytes on their way in one direction of a simulated serial line: a few transfers of a host.
pub const SERIAL_BYTES: usize = 64 * 1024;

/// Largest script of a simulated keyboard or mouse, in bytes.
pub const SCRIPT_BYTES: usize = 1024 * 1024;

/// Longest line of such a script, in bytes: what it makes the device do is kept in memory.
pub const SCRIPT_LINE_BYTES: usize = 4096;

/// Most control connections: each client of the server has one.
pub const CONTROL_CONNECTIONS: usize = 1024;

/// Control connections that one address may begin at once: as many clients as a machine may run.
pub const CONTROL_BURST: u32 = 256;

/// Control connections that one address may begin in a second, once its burst is used.
pub const CONTROL_RATE: u32 = 20;

/// Most addresses whose control connections are counted, 48 bytes each; beyond that the one that is
/// nearest to have its burst again is forgotten.
pub const CONTROL_ADDRESSES: usize = 1024;

/// Bytes of one receive on a control connection: a few requests.
pub const CONTROL_RECEIVE_BYTES: usize = 1024;

/// Most URBs that a server queues on one device ahead of its client: at one packet of 1 ms each
/// half a second; what is in eight packets or more reaches the longest time that can be chosen.
pub const AHEAD_URBS: usize = 512;

/// Most bytes of one endpoint's URBs that a server has ahead of its client: more than half a second
/// at the full high-speed rate.
pub const AHEAD_BYTES: usize = 16 * 1024 * 1024;

/// Longest time by which a server may work ahead of its client, in milliseconds.
pub const AHEAD_MS: u16 = 1000;

/// Largest configuration file, in bytes: thousands of rules.
pub const CONFIG_BYTES: usize = 1024 * 1024;

/// Most rules made while a server runs.
pub const POLICY_RULES: usize = 1024;
