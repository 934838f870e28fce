//! What this CPU offers is found, named and chosen.

use kernels::Kernel;

#[test]
fn scalar_comes_first_and_the_best_last() {
    let kernels: Vec<_> = Kernel::available().collect();
    assert_eq!(kernels.first(), Some(&Kernel::Scalar));
    assert_eq!(kernels.last(), Some(&Kernel::best()));
}

#[test]
fn every_kernel_is_found_by_its_name() {
    for kernel in Kernel::available() {
        assert_eq!(Kernel::named(kernel.name()), Ok(kernel));
    }
}

/// The features that the operating system reports decide which kernels there must be.
#[test]
#[cfg(target_os = "linux")]
fn no_kernel_of_this_cpu_is_missed() {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags: Vec<&str> = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or("")
        .split(' ')
        .collect();
    let has = |names: &[&str]| names.iter().all(|name| flags.contains(name));
    let bw = has(&["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"]);
    let expected = [
        ("avx2", has(&["avx2", "fma"])),
        ("avx512bw", bw),
        ("avx512vnni", bw && has(&["avx512_vnni"])),
    ];
    for (name, expected) in expected {
        assert_eq!(Kernel::named(name).is_ok(), expected, "{name}");
    }
    // Linux may refuse AMX to a process, but it cannot be there without the feature.
    assert!(Kernel::named("amx").is_err() || has(&["avx512_vnni", "amx_tile", "amx_int8"]));
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let message = Kernel::named("neon").unwrap_err().to_string();
    assert!(message.contains("\"neon\""), "{message}");
    for kernel in Kernel::available() {
        assert!(message.contains(kernel.name()), "{message}");
    }
}
