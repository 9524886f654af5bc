//! `port`: the imported devices.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::local::{self, LocalDevice};
use super::names;
use crate::error::Error;
use crate::host::{self, Hub, Port, PortState};

/// List the imported devices and their ports
#[derive(Debug, Args)]
pub(super) struct PortArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Free ports too
    #[arg(short, long)]
    pub(super) all: bool,
}

pub(super) fn run(args: &PortArgs, out: &mut dyn Write) -> Result<(), Error> {
    let mut ports = host::system()?.ports()?;
    ports.retain(|port| args.all || port.state != PortState::Free);
    let shown: Vec<_> = ports
        .iter()
        .map(|port| Shown::new(port, port.local_bus_id.as_deref().and_then(local::device)))
        .collect();
    if args.json {
        print_json(&shown, out)?
    } else {
        print_text(&shown, out)?
    }
    Ok(())
}

/// A port as it is printed; also the JSON form.
#[derive(Debug, Serialize)]
struct Shown {
    port: u32,
    controller: u32,
    hub: &'static str,
    state: &'static str,
    speed: Option<String>,
    speed_code: Option<u32>,
    remote_host: Option<String>,
    remote_tcp_port: Option<u16>,
    remote_bus_id: Option<String>,
    remote_bus_number: u32,
    remote_device_number: u32,
    local_bus_id: Option<String>,
    vendor_id: Option<String>,
    product_id: Option<String>,
    name: Option<String>,
    drivers: Vec<String>,
}

impl Shown {
    fn new(port: &Port, device: Option<LocalDevice>) -> Self {
        let origin = port.origin.as_ref();
        let in_use = port.state != PortState::Free;
        let of = device.as_ref().map(|device| &device.description);
        Self {
            port: port.number,
            controller: port.controller,
            hub: match port.hub {
                Hub::High => "hs",
                Hub::Super => "ss",
                Hub::Only => "only",
            },
            state: match port.state {
                PortState::Free => "free",
                PortState::Starting => "starting",
                PortState::Used => "used",
                PortState::Failed => "failed",
            },
            speed: in_use.then(|| port.speed.to_string()),
            speed_code: in_use.then(|| port.speed.code()),
            remote_host: origin.map(|origin| origin.host.clone()),
            remote_tcp_port: origin.map(|origin| origin.tcp_port),
            remote_bus_id: origin.map(|origin| origin.bus_id.clone()),
            remote_bus_number: port.device_id >> 16,
            remote_device_number: port.device_id & 0xffff,
            local_bus_id: port.local_bus_id.clone(),
            vendor_id: of.map(|of| format!("{:04x}", of.vendor)),
            product_id: of.map(|of| format!("{:04x}", of.product)),
            name: of.map(|of| {
                names::describe(of.vendor, of.product, &of.manufacturer_name, &of.product_name)
            }),
            drivers: device.map(|device| device.drivers).unwrap_or_default(),
        }
    }
}

fn print_json(shown: &[Shown], out: &mut dyn Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        ports: &'a [Shown],
    }
    serde_json::to_writer_pretty(&mut *out, &Document { schema: 1, ports: shown })?;
    writeln!(out)
}

fn print_text(shown: &[Shown], out: &mut dyn Write) -> io::Result<()> {
    if shown.is_empty() {
        return writeln!(out, "nothing is attached");
    }
    for port in shown {
        write!(out, "Port {:02}: {}", port.port, port.state)?;
        match &port.speed {
            None => writeln!(out, " ({}, controller {})", port.hub, port.controller)?,
            Some(speed) => print_device(port, speed, out)?,
        }
    }
    Ok(())
}

fn print_device(port: &Shown, speed: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, ", {speed}")?;
    if let (Some(name), Some(vendor), Some(product)) =
        (&port.name, &port.vendor_id, &port.product_id)
    {
        writeln!(out, "    {name} ({vendor}:{product})")?;
    }
    let here = port.local_bus_id.as_deref().unwrap_or("not there yet");
    match (&port.remote_host, port.remote_tcp_port, &port.remote_bus_id) {
        (Some(host), Some(tcp_port), Some(bus_id)) => {
            // An IPv6 address needs its brackets in a URL.
            let bare = host.contains(':') && !host.starts_with('[');
            let host = if bare { format!("[{host}]") } else { host.clone() };
            writeln!(out, "    {here} -> usbip://{host}:{tcp_port}/{bus_id}")?;
        }
        _ => writeln!(
            out,
            "    {here} -> unknown server, bus {:03} device {:03}",
            port.remote_bus_number, port.remote_device_number
        )?,
    }
    if !port.drivers.is_empty() {
        writeln!(out, "    driver {}", port.drivers.join(", "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Origin;
    use crate::usb::speed::Speed;

    fn port(state: PortState, origin: Option<Origin>) -> Port {
        Port {
            number: 4,
            controller: 0,
            hub: Hub::High,
            state,
            speed: Speed::High,
            device_id: 0x0001_0007,
            local_bus_id: (state == PortState::Used).then(|| "3-5".into()),
            origin,
        }
    }

    fn text(ports: &[Port]) -> String {
        let shown: Vec<_> = ports.iter().map(|port| Shown::new(port, None)).collect();
        let mut out = Vec::new();
        print_text(&shown, &mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn ports_say_where_their_device_comes_from() {
        let origin = Origin { host: "fe80::1".into(), tcp_port: 3240, bus_id: "1-1".into() };
        let known = port(PortState::Used, Some(origin));
        let unknown = port(PortState::Starting, None);
        let free = port(PortState::Free, None);
        let expected = "\
Port 04: used, 480 Mbit/s
    3-5 -> usbip://[fe80::1]:3240/1-1
Port 04: starting, 480 Mbit/s
    not there yet -> unknown server, bus 001 device 007
Port 04: free (hs, controller 0)
";
        assert_eq!(text(&[known, unknown, free]), expected);
        assert_eq!(text(&[]), "nothing is attached\n");
    }

    #[test]
    fn json_has_a_schema_and_nulls_where_nothing_is_known() {
        let shown = [Shown::new(&port(PortState::Used, None), None)];
        let mut out = Vec::new();
        print_json(&shown, &mut out).expect("memory");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["schema"], 1);
        assert_eq!(value["ports"][0]["port"], 4);
        assert_eq!(value["ports"][0]["remote_host"], serde_json::Value::Null);
        assert_eq!(value["ports"][0]["remote_device_number"], 7);
    }
}
