use std::sync::Arc;

use usbip_fast_native::Doorbell;
use usbip_fast_native::doorbell::Ring;

use super::*;
use crate::device::faulty::{Faults, Faulty, Plug};
use crate::device::gadget::simulate;

struct Silent;

impl Ring for Silent {
    fn ring(&self) {}
}

/// Runs the list on a simulated device, wrapped as the caller likes.
fn run(
    text: &str,
    faulty: bool,
    wrap: &mut dyn FnMut(Box<dyn Device>) -> Box<dyn Device>,
    unplug: Option<&mut dyn FnMut()>,
) -> Vec<&'static str> {
    let specs = simulate::parse(text).expect("a device");
    let export = std::cell::RefCell::new(specs[0].export(1));
    let description = export.borrow().describe().clone();
    let bell = Doorbell::new(Arc::new(Silent));
    let mut subject = Subject {
        description: &description,
        open: &mut || wrap(export.borrow_mut().reserve().expect("free")(&bell)),
        turn: &mut jump,
        dispose: &mut |device| export.borrow_mut().restore(device.into_remains()),
        unplug: unplug.map(|pull| Box::new(pull) as Box<dyn FnMut()>),
        faulty,
    };
    run_all(&mut subject).into_iter().map(|(name, _)| name).collect()
}

/// Time jumps to the next deadline.
fn jump(device: &mut dyn Device, now: Duration) -> Duration {
    let Some(due) = device.deadline() else {
        device.handle_doorbell(now);
        return now + Duration::from_millis(1);
    };
    let now = now.max(due);
    device.handle_deadline(now);
    now
}

#[test]
fn zero_keeps_the_contract_at_every_pace_and_speed() {
    for pace in ["none", "demand", "real", "0.1"] {
        for speed in ["full", "high", "super"] {
            let text = format!("zero:pace={pace}:speed={speed}:pattern=0");
            let not_run = run(&text, false, &mut |device| device, None);
            assert_eq!(not_run, ["gone"], "{text}");
        }
        let text = format!("zero:pace={pace}:speed=low");
        let not_run = run(&text, false, &mut |device| device, None);
        assert_eq!(not_run.len(), TESTS.len() - 2, "control and interrupt only: {not_run:?}");
    }
}

#[test]
fn faulty_without_faults_keeps_the_contract_and_can_be_unplugged() {
    for pace in ["none", "demand", "real"] {
        let plug = std::cell::RefCell::new(Plug::default());
        let mut wrap = |device: Box<dyn Device>| -> Box<dyn Device> {
            let faulty = Faulty::new(device, Faults::default(), 1);
            *plug.borrow_mut() = faulty.plug();
            Box::new(faulty)
        };
        let mut unplug = || plug.borrow().pull();
        let text = format!("zero:pace={pace}");
        assert_eq!(run(&text, false, &mut wrap, Some(&mut unplug)), [""; 0], "{text}");
    }
}

#[test]
fn faulty_with_faults_still_answers_every_urb_once() {
    for pace in ["none", "demand", "real"] {
        for seed in 0..4 {
            for faults in [Faults::FREQUENT, Faults { unplug: 3000, ..Faults::FREQUENT }] {
                let mut opened = seed * 1000;
                let mut wrap = |device: Box<dyn Device>| -> Box<dyn Device> {
                    opened += 1;
                    Box::new(Faulty::new(device, faults, opened))
                };
                let not_run = run(&format!("zero:pace={pace}"), true, &mut wrap, None);
                assert_eq!(not_run.len(), TESTS.len() - 3, "{not_run:?}");
            }
        }
    }
}
