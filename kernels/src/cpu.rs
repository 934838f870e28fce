//! The instruction sets that the kernels are compiled for, and the proof that this CPU has one.
//!
//! A [`Kernel`] other than `Scalar` holds a token that only a successful detection creates. So whoever
//! holds a kernel may call its `#[target_feature]` functions, and nobody else can.

use std::fmt;

use crate::float::simd::{Plain, Simd};

/// An instruction set that runs on this CPU. Copy it freely; choose one at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Plain Rust: the specification of every other kernel, and the fallback.
    Scalar,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, BW, DQ and VL, without VNNI (Skylake-X).
    #[cfg(target_arch = "x86_64")]
    Avx512Bw(Avx512Bw),
    /// AVX-512 with VNNI (Cascade Lake, Ice Lake, Zen 4 and later).
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
    /// AMX int8 for many tokens, AVX-512 VNNI for few (Sapphire Rapids and later).
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(Amx),
}

/// Proof that this CPU has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that this CPU has AVX-512 F, BW, DQ and VL.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Bw(());

/// Proof that this CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Vnni(Avx512Bw);

/// Proof that this CPU has AMX int8 beside AVX-512 VNNI, and that Linux lets this process use it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(Avx512Vnni);

/// `BITNET_KERNEL` asks for a kernel that this CPU does not run or that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnavailableKernel {
    asked: String,
}

/// A loop that is compiled once for each instruction set.
///
/// The body is safe Rust over fixed arrays of lanes. `run` must be `#[inline(always)]`, and so must be what
/// it calls (no closures around arithmetic): only code inlined into a `#[target_feature]` function is compiled with
/// that feature.
pub(crate) trait Pass {
    /// What the loop returns.
    type Output;
    /// Runs the loop. What the compiler cannot vectorize uses the operations of `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Kernel {
    /// Every kernel that runs here, slowest first. Tests and benches walk this list.
    #[cfg(target_arch = "x86_64")]
    pub fn available() -> impl Iterator<Item = Kernel> {
        let vector = [
            Avx2::detect().map(Kernel::Avx2),
            Avx512Bw::detect().map(Kernel::Avx512Bw),
            Avx512Vnni::detect().map(Kernel::Avx512Vnni),
            #[cfg(target_os = "linux")]
            Amx::detect().map(Kernel::Amx),
        ];
        std::iter::once(Kernel::Scalar).chain(vector.into_iter().flatten())
    }

    /// Every kernel that runs here, slowest first. Tests and benches walk this list.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available() -> impl Iterator<Item = Kernel> {
        std::iter::once(Kernel::Scalar)
    }

    /// The fastest kernel of this CPU.
    pub fn best() -> Kernel {
        Kernel::available().last().unwrap_or(Kernel::Scalar)
    }

    /// The kernel that the environment variable `BITNET_KERNEL` names, or the best one if it is unset or empty.
    ///
    /// # Errors
    /// The variable names no kernel of this CPU.
    pub fn from_env() -> Result<Kernel, UnavailableKernel> {
        match std::env::var_os("BITNET_KERNEL") {
            Some(name) if !name.is_empty() => Kernel::named(&name.to_string_lossy()),
            _ => Ok(Kernel::best()),
        }
    }

    /// The kernel of this [`name`](Kernel::name), if this CPU runs it.
    ///
    /// # Errors
    /// No kernel has the name, or this CPU lacks its features.
    pub fn named(name: &str) -> Result<Kernel, UnavailableKernel> {
        let unavailable = || UnavailableKernel { asked: name.to_owned() };
        Kernel::available()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(unavailable)
    }

    /// The name used in `BITNET_KERNEL`, logs and bench records.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bw(_) => "avx512bw",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(_) => "avx512vnni",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx(_) => "amx",
        }
    }

    /// Runs a loop compiled for this kernel's instruction set.
    pub(crate) fn run<P: Pass>(self, pass: P) -> P::Output {
        match self {
            Kernel::Scalar => pass.run(Plain),
            // SAFETY: the token proves the features.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(proof) => unsafe { run_avx2(pass, proof) },
            // SAFETY: the token proves the features.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bw(proof) => unsafe { run_avx512(pass, proof) },
            // SAFETY: the token proves the features, and more.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(Avx512Vnni(proof)) => unsafe { run_avx512(pass, proof) },
            // SAFETY: the token proves the features, and more.
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx(Amx(Avx512Vnni(proof))) => unsafe { run_avx512(pass, proof) },
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for UnavailableKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Kernel::available().map(Kernel::name).collect();
        write!(
            f,
            "BITNET_KERNEL is {:?}, but this CPU runs {}: ",
            self.asked,
            names.join(", ")
        )?;
        f.write_str("set one of these, or unset it for the fastest")
    }
}

impl std::error::Error for UnavailableKernel {}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Avx2> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512Bw {
    fn detect() -> Option<Avx512Bw> {
        let has = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        has.then_some(Avx512Bw(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512Vnni {
    fn detect() -> Option<Avx512Vnni> {
        Avx512Bw::detect()
            .filter(|_| is_x86_feature_detected!("avx512vnni"))
            .map(Avx512Vnni)
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Amx {
    /// Asks the CPU (leaf 7: AMX-TILE and AMX-INT8), the operating system (XCR0: tile state is saved), and Linux for
    /// the permission that a process needs (`arch_prctl(2)`, `ARCH_REQ_XCOMP_PERM`).
    fn detect() -> Option<Amx> {
        use std::arch::x86_64::{__cpuid_count, _xgetbv};
        const TILE_AND_INT8: u32 = 0b11 << 24;
        const TILE_STATE: u64 = 0b11 << 17;
        let vnni = Avx512Vnni::detect()?;
        if __cpuid_count(7, 0).edx & TILE_AND_INT8 != TILE_AND_INT8 {
            return None;
        }
        // SAFETY: a CPU with AVX has `xgetbv`, and the system has enabled it.
        let saved = unsafe { _xgetbv(0) };
        (saved & TILE_STATE == TILE_STATE && request_tile_data()).then_some(Amx(vnni))
    }
}

/// Asks Linux to let all threads of this process use tile registers. Asking again is harmless.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_data() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the system call reads two integers, touches no memory, and clobbers what is declared.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<P: Pass>(pass: P, proof: Avx2) -> P::Output {
    pass.run(proof)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<P: Pass>(pass: P, proof: Avx512Bw) -> P::Output {
    pass.run(proof)
}
