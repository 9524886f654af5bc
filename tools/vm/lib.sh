# For guest jobs: rows and their count, kernel log, gadgets, servers, imports, usbtest.
# Source it first:  . "$(dirname "$0")/../lib.sh"
#
# Environment a job understands (all optional):
#   USBIP_FAST   the program (default: target/release or target/debug of the current folder)
#   REACTOR      auto, io-uring or epoll (default auto)
#   COUNT        iterations of one usbtest case in one round (default 32)
#   UNLINK_TIMES how many times as often the cases that unlink run (default 10)
#   ROUNDS       how many rounds of all cases (default 1)
#   SERIAL       one: cases in which one transfer follows the other run on one processor, as the
#                long runs do; an emulated processor that sleeps takes so long to wake that they
#                take five times as long on two (default all)
#   PROGRESS     a file on a writable folder (run --out): rows are appended to it, and those that
#                passed are skipped next time, so that a long run can be spread over several boots
#   EXPORTER, IMPORTER   ours or stock: which program exports or imports (default ours); stock
#                means the kernel's usbip-host and the usbip tool of the kernel's authors
# shellcheck shell=bash

set -u
vm_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/vm/paths.sh
. "$vm_here/paths.sh"
PATH=$PATH:/usr/sbin:/sbin
REACTOR=${REACTOR:-auto}
COUNT=${COUNT:-32}
ROUNDS=${ROUNDS:-1}
UNLINK_TIMES=${UNLINK_TIMES:-10}
SERIAL=${SERIAL:-all}
PROGRESS=${PROGRESS:-}
EXPORTER=${EXPORTER:-ours}
IMPORTER=${IMPORTER:-ours}
if [ -z "${USBIP_FAST:-}" ]; then
    USBIP_FAST=$PWD/target/release/usbip-fast
    [ -x "$USBIP_FAST" ] || USBIP_FAST=$PWD/target/debug/usbip-fast
fi
vhci=/sys/devices/platform/vhci_hcd.0
usb=/sys/bus/usb/devices
work=/run/vm-work
mkdir -p "$work"
passed=0 failed=0 skipped=0

# ---- rows -------------------------------------------------------------------------------------

# pass NAME [FIGURE]: the figure is for readers, it is no part of the row's name.
pass() {
    passed=$((passed + 1))
    echo "PASS $1${2:+ ($2)}"
    [ -z "$PROGRESS" ] || echo "PASS $1" >>"$PROGRESS"
}
fail() {
    failed=$((failed + 1))
    echo "FAIL $1: $2"
    [ -z "$PROGRESS" ] || echo "FAIL $1: $2" >>"$PROGRESS"
}
not_run() { skipped=$((skipped + 1)); echo "NOT RUN $1: $2"; }
done_before() { [ -n "$PROGRESS" ] && grep -qxF "PASS $1" "$PROGRESS" 2>/dev/null; }

# row NAME CMD…: one row; the command's last line of output is the reason when it fails.
row() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        pass "$name"
    else
        fail "$name" "$(printf '%s' "${said:-$* failed}" | tail -n 1)"
    fi
}

# A mistake in a job must not pass for success. Bash calls this in a process of its own.
command_not_found_handle() {
    echo "$1: command not found" | tee -a "$work/mistakes" >&2
    return 127
}

# Ends the job: stops what it started, judges the kernel log, prints the count.
finish() {
    stop_servers
    check_dmesg "the kernel log" || true
    [ ! -s "$work/mistakes" ] || fail "the job itself" "$(tail -n 1 "$work/mistakes")"
    count_rows
    [ "$failed" = 0 ]
    exit
}

# A run of several boots counts all of them; a row that each boot has counts once. A failure stays
# one, although the row may have passed in a later boot.
count_rows() {
    if [ -n "$PROGRESS" ]; then
        passed=$(grep '^PASS ' "$PROGRESS" | sort -u | wc -l)
        failed=$(grep '^FAIL ' "$PROGRESS" | sort -u | wc -l)
        [ "$failed" = 0 ] || echo "failures of all boots are kept in $PROGRESS"
        iterations
    fi
    [ "$skipped" = 0 ] || echo "$skipped not run"
    echo "$passed passed, $failed failed"
}

# iterations: how often each case of usbtest has passed in all rounds and boots together.
iterations() {
    sort -u "$PROGRESS" |
        sed -n 's/^PASS .* round [0-9]* of [0-9]*, \([0-9]*\) each: test \([0-9]*\)$/\1 \2/p' |
        awk '
            { rows++; total[$2] += $1 }
            END {
                for (each in total) {
                    cases++
                    if (cases == 1 || total[each] < least) least = total[each]
                }
                if (rows) print cases " cases, each at least " least " times, in " rows " rows"
            }'
}

# A job that cannot go on (a case hangs inside the kernel) ends here; the guest is then rebooted.
give_up() {
    fail "$1" "$2"
    count_rows
    exit 1
}

# ---- kernel log -------------------------------------------------------------------------------

dmesg_seen=0
# check_dmesg LABEL: a failed row, and false, if the kernel reported a fault since the last call.
check_dmesg() {
    local lines each
    # Programs take long to start in the guest: only one is.
    mapfile -t -s "$dmesg_seen" lines < <(dmesg)
    dmesg_seen=$((dmesg_seen + ${#lines[@]}))
    for each in ${lines[@]+"${lines[@]}"}; do
        if [[ $each =~ $vm_fault_pattern ]]; then
            fail "$1" "kernel fault: $each"
            return 1
        fi
    done
}

# ---- general ----------------------------------------------------------------------------------

# wait_for SECONDS CMD…: true as soon as the command is; looks ten times a second.
wait_for() {
    local end=$(($(milliseconds) + $1 * 1000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(milliseconds)" -lt "$end" ] || return 1
        sleep 0.1
    done
}
milliseconds() {
    local now=${EPOCHREALTIME/[.,]/}
    echo "${now%???}"
}

load_modules() {
    local each
    for each in "$@"; do
        modprobe "$each" || { echo "cannot load module $each" >&2; return 1; }
    done
}

have() { command -v "$1" >/dev/null; }

# ---- gadgets on dummy_hcd ---------------------------------------------------------------------

# gadget_ports N [MODULE OPTIONS…]: N ports, device side dummy_udc.0…; super speed unless told
# otherwise (is_super_speed=0).
gadget_ports() {
    local n=$1
    shift
    modprobe dummy_hcd num="$n" "${@:-is_super_speed=1}" && load_modules libcomposite configfs
    mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
}

# gadget_new NAME VENDOR PRODUCT: an empty gadget; leaves its folder in $gadget.
gadget_new() {
    gadget=/sys/kernel/config/usb_gadget/$1
    mkdir -p "$gadget/strings/0x409" "$gadget/configs/c.1/strings/0x409"
    echo "$2" >"$gadget/idVendor"
    echo "$3" >"$gadget/idProduct"
    echo 0x0200 >"$gadget/bcdUSB"
    echo 0123456789 >"$gadget/strings/0x409/serialnumber"
    echo test >"$gadget/strings/0x409/manufacturer"
    echo "$1" >"$gadget/strings/0x409/product"
    echo c1 >"$gadget/configs/c.1/strings/0x409/configuration"
    echo 120 >"$gadget/configs/c.1/MaxPower"
}

# gadget_function FUNCTION [CONFIG]: creates it and links it into a configuration.
gadget_function() {
    mkdir -p "$gadget/functions/$1" "$gadget/configs/${2:-c.1}"
    ln -s "$gadget/functions/$1" "$gadget/configs/${2:-c.1}/"
}

gadget_plug() { echo "dummy_udc.$2" >"/sys/kernel/config/usb_gadget/$1/UDC"; }
gadget_unplug() { echo "" >"/sys/kernel/config/usb_gadget/$1/UDC"; }

# gadget_zero NAME UDC [PATTERN]: configuration 1 source and sink, 2 loop-back; 0525:a4a0.
gadget_zero() {
    gadget_new "$1" 0x0525 0xa4a0
    mkdir -p "$gadget/functions/SourceSink.$1"
    echo "${3:-0}" >"$gadget/functions/SourceSink.$1/pattern"
    gadget_function "SourceSink.$1"
    gadget_function "Loopback.$1" c.2
    gadget_plug "$1" "$2"
}

# gadget_acm NAME UDC: a serial line; the device's end is /dev/ttyGS0 (1, …).
gadget_acm() {
    gadget_new "$1" 0x1d6b 0x0104
    gadget_function "acm.$1"
    gadget_plug "$1" "$2"
}

# gadget_hid NAME UDC: a boot keyboard; write 8-byte reports to /dev/hidg0.
gadget_hid() {
    local f
    gadget_new "$1" 0x1d6b 0x0105
    f=$gadget/functions/hid.$1
    mkdir -p "$f"
    echo 1 >"$f/protocol"
    echo 1 >"$f/subclass"
    echo 8 >"$f/report_length"
    # Device class definition for HID 1.11, appendix E.6.
    printf '\x05\x01\x09\x06\xa1\x01\x05\x07\x19\xe0\x29\xe7\x15\x00\x25\x01\x75\x01\x95\x08\x81\x02' \
        >"$work/report"
    printf '\x95\x01\x75\x08\x81\x03\x95\x05\x75\x01\x05\x08\x19\x01\x29\x05\x91\x02\x95\x01\x75\x03' \
        >>"$work/report"
    printf '\x91\x03\x95\x06\x75\x08\x15\x00\x25\x65\x05\x07\x19\x00\x29\x65\x81\x00\xc0' \
        >>"$work/report"
    cat "$work/report" >"$f/report_desc"
    gadget_function "hid.$1"
    gadget_plug "$1" "$2"
}

# gadget_storage NAME UDC IMAGE: a disk, bulk-only transport.
gadget_storage() {
    gadget_new "$1" 0x1d6b 0x0106
    mkdir -p "$gadget/functions/mass_storage.$1"
    echo 1 >"$gadget/functions/mass_storage.$1/stall"
    echo 0 >"$gadget/functions/mass_storage.$1/lun.0/removable"
    echo "$3" >"$gadget/functions/mass_storage.$1/lun.0/file"
    gadget_function "mass_storage.$1"
    gadget_plug "$1" "$2"
}

# ---- devices ----------------------------------------------------------------------------------

# devices_on WHERE: bus ids of devices below a host controller: dummy_hcd, vhci_hcd or pci.
devices_on() {
    local each
    for each in "$usb"/*-*; do
        case ${each##*/} in
            *:*) continue ;;
        esac
        case $(readlink -f "$each") in
            */"$1"[.0-9]*/usb*) echo "${each##*/}" ;;
        esac
    done
}

configured() { [ "$(cat "$usb/$1/bNumInterfaces" 2>/dev/null | tr -d ' ')" -gt 0 ] 2>/dev/null; }

# device_of VENDOR:PRODUCT WHERE: the first bus id with these numbers.
device_of() {
    local each
    for each in $(devices_on "$2"); do
        if [ "$(cat "$usb/$each/idVendor"):$(cat "$usb/$each/idProduct")" = "$1" ]; then
            echo "$each"
            return 0
        fi
    done
    return 1
}

driver_of() { [ -e "$usb/$1/driver" ] && basename "$(readlink "$usb/$1/driver")"; }
has_driver() { [ "$(driver_of "$1")" = "$2" ]; }

# ---- exporting and importing ------------------------------------------------------------------

servers=()
# serve NAME ARGUMENTS…: starts our server in the background; $server is its process, its log is
# $work/NAME.log. True when it listens. The last --listen given, or 127.0.0.1:3240.
serve() {
    local name=$1 port=3240 each
    shift
    for each in "$@"; do
        case $each in *:[0-9]*[0-9]) port=${each##*:} ;; esac
    done
    "$USBIP_FAST" serve --reactor "$REACTOR" "$@" >"$work/$name.log" 2>&1 &
    server=$!
    servers+=("$server")
    wait_for 20 listening "$port" && return 0
    echo "the server does not listen on $port: $(tail -n 1 "$work/$name.log")" >&2
    return 1
}

listening() { ss -Hltn "sport = :$1" | grep -q .; }

# stop_server PID: asks it to end, as a service manager does; waits up to 20 s.
stop_server() {
    kill -TERM "$1" 2>/dev/null || return 0
    wait_for 20 gone "$1" || kill -KILL "$1"
    wait "$1" 2>/dev/null
}
gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.*Z' "/proc/$1/status"; }
stop_servers() {
    local each
    for each in ${servers[@]+"${servers[@]}"}; do
        stop_server "$each"
    done
    servers=()
}

# export_device BUSID: by the server that EXPORTER names, on port 3240.
export_device() {
    if [ "$EXPORTER" = ours ]; then
        serve "serve-$1" -b "$1"
        return
    fi
    load_modules usbip-host || return 1
    usbip bind -b "$1" || return 1
    listening 3240 || usbipd -D
    wait_for 10 listening 3240
}

unexport_device() {
    if [ "$EXPORTER" = ours ]; then
        stop_server "$server"
        servers=()
        return
    fi
    usbip unbind -b "$1"
    kill "$(pidof usbipd)" 2>/dev/null
    wait_for 10 no_daemon
}
no_daemon() { ! pidof usbipd; }

# remote_busids [PORT]: the bus ids a server offers, one a line.
remote_busids() {
    if [ "$IMPORTER" = ours ]; then
        "$USBIP_FAST" list --tcp-port "${1:-3240}" -r 127.0.0.1
    else
        usbip --tcp-port "${1:-3240}" list -r 127.0.0.1
    fi 2>/dev/null | sed -n 's/^ *\([A-Za-z0-9._-]*\): .*([0-9a-f]\{4\}:[0-9a-f]\{4\}).*/\1/p'
}

# import BUSID [PORT [HOST]]: attaches it with the program IMPORTER names; waits until the kernel
# has configured it. Leaves its local bus id in $imported and its port in $imported_port.
import() {
    local busid=$1 port=${2:-3240} host=${3:-127.0.0.1}
    load_modules vhci-hcd || return 1
    devices_on vhci_hcd | sort >"$work/before"
    if [ "$IMPORTER" = ours ]; then
        timeout 60 "$USBIP_FAST" attach --tcp-port "$port" -r "$host" -b "$busid"
    else
        timeout 60 usbip --tcp-port "$port" attach -r "$host" -b "$busid"
    fi >"$work/attach.log" 2>&1 || { tail -n 1 "$work/attach.log" >&2; return 1; }
    imported=
    wait_for 20 new_import || { echo "attached, but no device appeared" >&2; return 1; }
    imported=$(new_device)
    imported_port=$(port_of "$imported")
}
new_device() { devices_on vhci_hcd | sort | comm -13 "$work/before" - | head -n 1; }
new_import() { configured "$(new_device)"; }

# port_of BUSID: the vhci port (without leading zeros) that holds a local device.
port_of() {
    cat "$vhci"/status* | awk -v id="$1" '$NF == id { print $2 + 0; exit }'
}

# detach_port PORT: with the program IMPORTER names; waits until the port is free.
detach_port() {
    if [ "$IMPORTER" = ours ]; then
        "$USBIP_FAST" detach -p "$1"
    else
        usbip detach -p "$1"
    fi >"$work/detach.log" 2>&1 || return 1
    wait_for 10 port_free "$1"
}
port_free() { cat "$vhci"/status* | awk -v p="$1" '$2 + 0 == p && $3 + 0 == 4 { f = 1 } END { exit !f }'; }

# ---- usbtest ----------------------------------------------------------------------------------

bulk_cases="0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 17 18 19 20 21 24 27 28 29"
iso_cases="15 16 22 23"
interrupt_cases="25 26"
# Lengths, steps and queue; the second set is for the reads of varying length (4 and 8), which a
# device with data at hand answers by babble unless each length is a multiple of its packet size.
parameters="-s 512 -v 421 -g 8"
varying_reads=$parameters

# bind_usbtest BUSID ALTERNATE: binds the kernel's test driver anew to interface 0, so that it
# picks the endpoints of this alternate setting (-1: the first that has any it can use).
bind_usbtest() {
    local interface
    load_modules usbtest || return 1
    interface=$1:$(cat "$usb/$1/bConfigurationValue").0
    echo "$2" >/sys/module/usbtest/parameters/alt
    if [ -e "$usb/$interface/driver" ]; then
        echo "$interface" >"$usb/$interface/driver/unbind"
    fi
    echo "$interface" >/sys/bus/usb/drivers/usbtest/bind
}

# usbtest_rows LABEL BUSID ALTERNATE CASES: one row for each case; those that unlink run
# UNLINK_TIMES as often. Checks the kernel log after each.
usbtest_rows() {
    local label=$1 busid=$2 case ordinary=() varying=() unlinking=()
    for case in $4; do
        done_before "$label test $case" && continue
        case $case in
            11 | 12 | 24) unlinking+=("$case") ;;
            4 | 8) varying+=("$case") ;;
            *) ordinary+=("$case") ;;
        esac
    done
    [ $((${#ordinary[@]} + ${#varying[@]} + ${#unlinking[@]})) -gt 0 ] || return 0
    if ! bind_usbtest "$busid" "$3" 2>"$work/bind.log"; then
        fail "$label bind alt=$3" "usbtest does not bind: $(tail -n 1 "$work/bind.log")"
        return 1
    fi
    processors "$SERIAL"
    usbtest_group "$label" "$busid" "$COUNT" "$parameters" ${ordinary[@]+"${ordinary[@]}"}
    usbtest_group "$label" "$busid" "$COUNT" "$varying_reads" ${varying[@]+"${varying[@]}"}
    # On one processor the driver waits busily for a thread that it keeps from running.
    processors all
    usbtest_group "$label" "$busid" $((COUNT * UNLINK_TIMES)) "$parameters" \
        ${unlinking[@]+"${unlinking[@]}"}
}

# usbtest_group LABEL BUSID COUNT LENGTHS CASE…: the rows of cases that are run alike.
usbtest_group() {
    local label=$1 busid=$2 count=$3 lengths=$4 list name line case
    shift 4
    [ $# -gt 0 ] || return 0
    [ -x "$work/usbtest" ] || cp "$vm_cache/usbtest" "$work/usbtest"
    list=$(IFS=,; echo "$*")
    while IFS= read -r line; do
        case=${line#test }
        case=${case%%:*}
        name="$label test $case"
        shift
        case $line in
            *': pass '*) pass "$name" "${line#*: pass }" ;;
            *'still inside the kernel'*) give_up "$name" "${line#*: }" ;;
            *) fail "$name" "${line#*: }" ;;
        esac
        check_dmesg "$name" || give_up "$name" "the kernel is no longer to be trusted"
    done < <(
        # shellcheck disable=SC2086
        "$work/usbtest" --busid "$busid" -t "$list" -a -l "${CASE_LIMIT:-$((count + 120))}" \
            -c "$count" $lengths 2>&1
    )
    [ $# = 0 ] || fail "$label test $*" "usbtest ended without a word about them"
}

# processors one|all: how many of the guest's processors take part.
processors() {
    local each on=1
    [ "$1" = all ] || on=0
    for each in /sys/devices/system/cpu/cpu[1-9]*/online; do
        [ "$(<"$each")" = "$on" ] || echo "$on" >"$each"
    done
}

# rounds LABEL: the labels of ROUNDS rounds, one a line. The number of iterations is part of them,
# so that a run that goes on with another does not mix them.
rounds() {
    local round
    [ "$ROUNDS" != 1 ] || { echo "$1"; return; }
    for round in $(seq "$ROUNDS"); do
        echo "$1 round $round of $ROUNDS, $COUNT each:"
    done
}

# all_cases LABEL BUSID: every case, alternate setting by alternate setting, ROUNDS times.
all_cases() {
    local tag tags
    mapfile -t tags < <(rounds "$1")
    for tag in "${tags[@]}"; do
        usbtest_rows "$tag" "$2" -1 "$bulk_cases"
        usbtest_rows "$tag" "$2" 1 "$iso_cases"
        usbtest_rows "$tag" "$2" 2 "$interrupt_cases"
    done
}

# bulk_and_control LABEL BUSID: every case a device without those endpoints can do.
bulk_and_control() {
    local tag tags
    mapfile -t tags < <(rounds "$1")
    for tag in "${tags[@]}"; do
        usbtest_rows "$tag" "$2" -1 "$bulk_cases"
    done
}
