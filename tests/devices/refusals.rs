//! What is refused, in words.

use super::machines::{described, mixed, slices};
use ringfold::ErrorKind;
use ringfold::device::{Device, Host, Inventory, Misfit, Node, Policy, TaskRequest, assign};

fn refused(inventory: &Inventory, requests: &[TaskRequest]) -> Misfit {
    assign(inventory, requests, &Policy::default()).expect_err("it does not fit")
}

fn gpu(amount: f64) -> TaskRequest {
    TaskRequest::new().amount("gpu", amount)
}

fn named(names: &[&str]) -> Inventory {
    let devices =
        names.iter().enumerate().map(|(at, name)| Device::new("gpu", at.to_string()).with_uuid(*name));
    Inventory::of([Host::new("a")
        .with_nodes([Node::new(0, 0..4)])
        .with_memory(8 << 30)
        .with_devices(devices)])
    .unwrap()
}

#[test]
fn a_refusal_says_what_was_asked_what_there_is_and_what_would_fit() {
    let mut four = named(&["GPU-a", "GPU-b", "GPU-c", "GPU-d"]);
    four.mark_held(|device| device.key() == "GPU-d");
    let misfit = refused(&four, &vec![gpu(1.0); 4]);
    assert_eq!(
        misfit.to_string(),
        "4 tasks ask for 1 gpu each, and there are 3 (GPU-a, GPU-b, GPU-c; 1 more is held by another group): 3 tasks would fit"
    );
    assert_eq!((misfit.tasks, misfit.fit, misfit.proved), (4, 3, true));
    assert_eq!(misfit.shortages[0].held, ["GPU-d"]);
    let error = ringfold::Error::from(misfit);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.what_to_do(),
        Some("start 3 tasks, or ask for less, or wait until other groups have ended")
    );
    let one = named(&["GPU-a"]);
    for (inventory, requests, text) in [
        (&one, vec![gpu(1.0); 2], "2 tasks ask for 1 gpu each, and there is 1 (GPU-a): 1 task would fit"),
        (&one, vec![gpu(0.3); 4], "4 tasks ask for 0.3 gpu each, and there is 1 (GPU-a): 3 tasks would fit"),
        (&one, vec![gpu(2.0)], "1 task asks for 2 gpu, and there is 1 (GPU-a): no task would fit"),
        (
            &one,
            vec![gpu(0.25).cpus(2.0); 3],
            "3 tasks ask for 0.25 gpu, 2 cpus each, and there are 4 cpus: 2 tasks would fit",
        ),
        (
            &one,
            vec![TaskRequest::new().memory(3 << 30); 3],
            "3 tasks ask for 3 GiB of memory each, and there are 8 GiB of memory: 2 tasks would fit",
        ),
        (
            &one,
            vec![gpu(1.0), gpu(0.5)],
            "2 tasks ask for 1.5 gpu in all, and there is 1 (GPU-a): the first 1 task would fit",
        ),
        (
            &four,
            vec![gpu(0.7), gpu(0.7), gpu(0.7), gpu(0.6)],
            "4 tasks ask for 2.7 gpu in all, and there are 3 (GPU-a, GPU-b, GPU-c; 1 more is held by another group), which cannot be divided so: the first 3 tasks would fit",
        ),
        (
            &one,
            vec![TaskRequest::new().amount("npu", 1.0)],
            "1 task asks for 1 npu, and there are none: no task would fit",
        ),
    ] {
        assert_eq!(refused(inventory, &requests).to_string(), text);
    }
    let many = refused(&described("dgx.json"), &vec![gpu(1.0); 9]).to_string();
    assert!(many.contains("there are 8 (GPU-") && many.ends_with("): 8 tasks would fit"), "{many}");
    let names: Vec<String> = (0..11).map(|index| format!("G{index:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let more = refused(&named(&names), &vec![gpu(1.0); 12]).to_string();
    assert!(more.contains("G07 and 3 others)"), "{more}");
}

#[test]
fn why_there_are_none_is_told() {
    let none = Inventory::discover(&ringfold::device::Discovery::None).unwrap();
    let misfit = refused(&none, &[gpu(1.0)]).to_string();
    assert_eq!(
        misfit,
        "1 task asks for 1 gpu, and there are none (devices are not looked for): no task would fit"
    );
    let nowhere = Inventory::of([]).unwrap();
    let misfit = refused(&nowhere, &[TaskRequest::new()]).to_string();
    assert!(misfit.contains("no host"), "{misfit}");
}

#[test]
fn enough_in_all_may_be_too_little_on_each_host() {
    let misfit = refused(&mixed(), &vec![gpu(3.0); 5]);
    assert_eq!(misfit.fit, 3);
    assert!(misfit.to_string().contains("there are 13 (GPU-big0"), "{misfit}");
    let misfit = refused(&slices(), &[gpu(7.0)]);
    assert_eq!((misfit.fit, misfit.shortages[0].names.len()), (0, 6));
}

#[test]
fn requests_that_cannot_be_right_are_told_apart() {
    for wrong in
        [gpu(1.5), gpu(-1.0), gpu(f64::NAN), gpu(1e-12), gpu(1.0).cpus(-2.0), gpu(1.0).amount("", 1.0)]
    {
        let misfit = refused(&mixed(), &[gpu(1.0), wrong]);
        assert_eq!(misfit.invalid.as_ref().unwrap().0, 1);
        assert!(misfit.to_string().starts_with("task 1 asks for what cannot be"), "{misfit}");
        assert_eq!(ringfold::Error::from(misfit).kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_large_group_that_does_not_fit_is_told_so() {
    let hosts = (0..1250).map(|host| {
        let gpus =
            (0..8).map(move |at| Device::new("gpu", at.to_string()).with_uuid(format!("GPU-{host:04}-{at}")));
        Host::new(format!("host{host:04}")).with_nodes([Node::new(0, 0..64)]).with_devices(gpus)
    });
    let inventory = Inventory::of(hosts).unwrap();
    let misfit = refused(&inventory, &vec![gpu(8.0).cpus(8.0); 1251]);
    assert_eq!(misfit.fit, 1250);
    // Requests of two kinds, one task too many.
    let mut requests = vec![gpu(5.0); 1000];
    requests.extend(vec![gpu(3.0); 1501]);
    let misfit = refused(&inventory, &requests);
    assert_eq!((misfit.fit, misfit.proved), (2500, false));
}
