//! Who sits where on machines that are described.

use super::machines::{described, mixed, slices};
use ringfold::device::{
    Assigned, Assignment, Device, Discovery, Host, Inventory, Node, Path, Placement, Policy, TaskRequest,
    assign,
};
use ringfold::task::TaskDescription;

fn placed(inventory: &Inventory, tasks: usize, request: &TaskRequest, placement: Placement) -> Assignment {
    assign(inventory, &vec![request.clone(); tasks], &Policy::new(placement).pinned(true)).unwrap()
}

fn gpu(amount: f64) -> TaskRequest {
    TaskRequest::new().amount("gpu", amount)
}

fn addresses(assignment: &Assignment) -> Vec<String> {
    assignment.tasks.iter().map(|task| task.addresses("gpu").join("+")).collect()
}

#[test]
fn a_dgx_is_filled_socket_by_socket_or_from_both() {
    let dgx = described("dgx.json");
    assert_eq!(addresses(&placed(&dgx, 4, &gpu(1.0), Placement::Pack)), ["0", "1", "2", "3"]);
    assert_eq!(addresses(&placed(&dgx, 4, &gpu(1.0), Placement::Spread)), ["0", "4", "1", "5"]);
    assert_eq!(addresses(&placed(&dgx, 2, &gpu(4.0), Placement::Pack)), ["0+1+2+3", "4+5+6+7"]);
    assert_eq!(addresses(&placed(&dgx, 3, &gpu(0.5), Placement::Pack)), ["0", "0", "1"]);
    assert_eq!(addresses(&placed(&dgx, 3, &gpu(0.5), Placement::Spread)), ["0", "4", "1"]);
    assert_eq!(addresses(&placed(&dgx, 4, &gpu(0.3), Placement::Pack)), ["0", "0", "0", "1"]);
    // All ways cost the same by the switches, so the ring is in order.
    let all = placed(&dgx, 8, &gpu(1.0), Placement::Linked);
    assert_eq!((all.ring(), all.cost()), ((0..8).collect(), 8 * Path::Fabric.cost()));
}

#[test]
fn tasks_are_pinned_near_their_devices() {
    let dgx = described("dgx.json");
    let pinned = placed(&dgx, 8, &gpu(1.0).cpus(2.0), Placement::Pack);
    let cpus: Vec<&[usize]> = pinned.tasks.iter().map(|task| &task.cpus[..]).collect();
    assert_eq!(cpus[..2], [[0, 1], [2, 3]]);
    assert_eq!(cpus[4..6], [[56, 57], [58, 59]]);
    let whole_node = placed(&dgx, 1, &gpu(1.0), Placement::Pack);
    assert_eq!(whole_node.tasks[0].cpus, dgx.hosts()[0].nodes[0].cpus);
    // Who has no device goes where there is room: to each node in turn.
    let guests = placed(&dgx, 2, &TaskRequest::new().cpus(1.0), Placement::Pack);
    assert_eq!((&guests.tasks[0].cpus[..], &guests.tasks[1].cpus[..]), (&[0][..], &[56][..]));
    // Where a node has no more CPUs, the other's serve; halves share one.
    let nodes = [Node::new(0, [0, 1]), Node::new(1, [2, 3])];
    let gpus = ["0", "1"].map(|address| Device::new("gpu", address).with_numa(0));
    let narrow = Inventory::of([Host::new("narrow").with_nodes(nodes).with_devices(gpus)]).unwrap();
    let wide = placed(&narrow, 2, &gpu(1.0).cpus(2.0), Placement::Pack);
    assert_eq!((&wide.tasks[0].cpus[..], &wide.tasks[1].cpus[..]), (&[0, 1][..], &[2, 3][..]));
    let halves = placed(&narrow, 4, &gpu(0.5).cpus(0.5), Placement::Pack);
    let cpus: Vec<usize> = halves.tasks.iter().map(|task| task.cpus[0]).collect();
    assert_eq!(cpus, [0, 0, 1, 1]);
}

#[test]
fn bridges_are_followed_across_sockets() {
    // 0 and 2 are joined, and 1 and 3; 0 and 1 share a socket, and 2 and 3.
    let bridges = described("bridges.json");
    assert_eq!(addresses(&placed(&bridges, 2, &gpu(1.0), Placement::Pack)), ["0", "1"]);
    assert_eq!(addresses(&placed(&bridges, 2, &gpu(1.0), Placement::Linked)), ["0", "2"]);
    let pairs = placed(&bridges, 2, &gpu(2.0), Placement::Linked);
    assert_eq!(addresses(&pairs), ["0+2", "3+1"]);
    let ring = placed(&bridges, 4, &gpu(1.0), Placement::Pack).ring();
    assert_eq!(ring, [0, 1, 3, 2], "over both bridges, and within both sockets");
}

#[test]
fn slices_go_by_their_uuids() {
    let cut = slices();
    let four = placed(&cut, 4, &gpu(1.0), Placement::Pack);
    let visible: Vec<String> = four.tasks.iter().map(|task| task.visible(None).unwrap()).collect();
    assert_eq!(visible, ["MIG-00", "MIG-01", "MIG-02", "MIG-10"]);
    let spread = placed(&cut, 2, &gpu(1.0), Placement::Spread);
    assert_eq!(spread.tasks[1].visible(None).unwrap(), "MIG-10");
    assert_eq!(spread.tasks[1].visible(Some("MIG-02,MIG-10")).unwrap(), "MIG-10");
    assert!(spread.tasks[1].visible(Some("MIG-02")).is_none());
    assert_eq!(spread.tasks[1].cpus, (8..16).collect::<Vec<_>>());
}

#[test]
fn a_device_is_found_in_a_list_by_its_own_entry() {
    let listed = Inventory::discover(&Discovery::Visible("2,3".to_owned())).unwrap();
    let second = &placed(&listed, 2, &gpu(1.0), Placement::Pack).tasks[1];
    assert_eq!(second.addresses("gpu"), ["1"]);
    for (existing, visible) in [(None, "3"), (Some("2,3"), "3"), (Some("3,2"), "3"), (Some("0,1,3"), "3")] {
        assert_eq!(second.try_visible(existing).unwrap().unwrap(), visible, "{existing:?}");
    }
    for existing in ["0,1", "4,5", "", "GPU-a,GPU-b"] {
        let error = second.try_visible(Some(existing)).unwrap_err();
        assert_eq!(error.kind(), ringfold::ErrorKind::InvalidArgument);
        assert!(error.message().contains("does not have 3"), "{error}");
    }
    // As the driver counts it, where the list counts as well; by its UUID, whatever else is said.
    let known = Device::new("gpu", "0").with_uuid("GPU-aa").with_entry("2");
    let one = Inventory::of([Host::new("a").with_devices([known])]).unwrap();
    let task = &placed(&one, 1, &gpu(1.0), Placement::Pack).tasks[0];
    assert_eq!(task.visible(Some("3,2")).unwrap(), "2");
    assert_eq!(task.visible(Some("GPU-b,GPU-a")).unwrap(), "GPU-a");
    assert_eq!(task.visible(Some("3,4")), None);
    assert_eq!(task.visible(None).unwrap(), "GPU-aa");
    let amd = Device::new("gpu", "0").with_uuid("GPU-aa").with_entry("2").with_vendor("amd");
    let one = Inventory::of([Host::new("a").with_devices([amd])]).unwrap();
    let task = &placed(&one, 1, &gpu(1.0), Placement::Pack).tasks[0];
    assert_eq!(task.visible(None).unwrap(), "2", "HIP takes indices");
}

#[test]
fn hosts_that_differ_are_used_as_they_are() {
    let mixed = mixed();
    let hosts = |assignment: &Assignment| -> Vec<String> {
        assignment.tasks.iter().map(|task| task.host.clone()).collect()
    };
    assert_eq!(hosts(&placed(&mixed, 2, &gpu(1.0).cpus(1.0), Placement::Pack)), ["small", "small"]);
    assert_eq!(hosts(&placed(&mixed, 3, &gpu(1.0), Placement::Pack)), ["quota"; 3]);
    assert_eq!(hosts(&placed(&mixed, 3, &gpu(1.0), Placement::Spread)), ["big", "quota", "small"]);
    assert_eq!(hosts(&placed(&mixed, 1, &gpu(1.0).cpus(2.0).memory(8 << 30), Placement::Pack)), ["big"]);
    let fpga = TaskRequest::new().amount("fpga", 0.5).cpus(1.0);
    let two = placed(&mixed, 2, &fpga, Placement::Pack);
    assert_eq!(hosts(&two), ["odd", "odd"]);
    assert_eq!((&two.tasks[0].cpus[..], &two.tasks[1].cpus[..]), (&[4][..], &[5][..]));
    assert_eq!(two.tasks[0].visible(None), None, "CUDA knows of no FPGA");
    // Rings go from host to host once.
    let requests = vec![gpu(1.0); 9];
    let spread = assign(&mixed, &requests, &Policy::new(Placement::Spread)).unwrap();
    let order: Vec<String> = spread.ring().iter().map(|&task| spread.tasks[task].host.clone()).collect();
    let changes = (0..9).filter(|&at| order[at] != order[(at + 1) % 9]).count();
    assert_eq!(changes, 3, "{order:?}");
}

#[test]
fn an_assignment_can_be_sent() {
    let assignment = placed(&described("dgx.json"), 3, &gpu(0.5).cpus(1.0), Placement::Linked);
    let text = serde_json::to_string(&assignment).unwrap();
    assert_eq!(serde_json::from_str::<Assignment>(&text).unwrap(), assignment);
}

#[test]
fn what_is_told_of_a_task_may_leave_the_host_out() {
    let told: Assigned = serde_json::from_str(r#"{"devices": []}"#).unwrap();
    assert_eq!(told, Assigned::default());
    let told: TaskDescription = r#"{"resources": {"devices": []}}"#.parse().unwrap();
    assert_eq!(told.resources, Assigned::default());
}

#[test]
fn nobody_asking_gets_nothing() {
    let none = assign(&described("dgx.json"), &[], &Policy::default()).unwrap();
    assert!(none.tasks.is_empty() && none.ring().is_empty() && none.cost() == 0);
    let idle = placed(&described("dgx.json"), 3, &TaskRequest::new(), Placement::Spread);
    assert!(idle.tasks.iter().all(|task| task.devices.is_empty() && task.host == "dgx"));
}

#[test]
fn a_thread_is_pinned_where_it_is_told_to_be() {
    let here = Inventory::discover(&ringfold::device::Discovery::None).unwrap();
    let last = *here.hosts()[0].cpus().last().unwrap();
    let one = Inventory::of([Host::new("x").with_nodes([Node::new(0, [last])])]).unwrap();
    let task = &placed(&one, 1, &TaskRequest::new().cpus(1.0), Placement::Pack).tasks[0];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            task.pin(0).unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
            assert_eq!(line.trim(), last.to_string());
        });
    });
    let nowhere = Inventory::of([Host::new("x").with_nodes([Node::new(0, [60_000])])]).unwrap();
    let task = &placed(&nowhere, 1, &TaskRequest::new().cpus(1.0), Placement::Pack).tasks[0];
    assert_eq!(task.pin(0).unwrap_err().kind(), ringfold::ErrorKind::Io);
}
