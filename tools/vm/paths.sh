# Where the guest's kernel, initrd and our runner live. Sourced by setup, run and lib.sh.
vm_cache=${USBIP_FAST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/usbip-fast}/vm
# What a kernel log line looks like that no job may leave behind. The first set is printed by an
# oops or a warning, the second by the lock-up and hung-task detectors.
vm_fault_pattern='general protection|BUG: |BUG at|Oops|WARNING: |kernel panic|Kernel panic|'
vm_fault_pattern+='Call Trace|unable to handle|blocked for more than|soft lockup|hard LOCKUP|'
vm_fault_pattern+='rcu.*self-detected stall|refcount_t|list_(add|del) corruption|slab.*corrupt'
