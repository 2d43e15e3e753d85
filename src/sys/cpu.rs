//! What the processor says of itself. Each thing is asked once, when somebody wants it: under a hypervisor each CPUID is an exit
//! from the guest (8 to 20 µs on one host), and there are threads by the thousand to ask for.

use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::sync::LazyLock;

/// State components of an xsave area, x87 (0) included: the bits of XCR0.
const COMPONENTS: usize = 63;

/// Leaf 0xD: the area as a whole.
static AREA: LazyLock<CpuidResult> = LazyLock::new(|| __cpuid_count(0xd, 0));
/// Leaf 7.
static FEATURES: LazyLock<CpuidResult> = LazyLock::new(|| __cpuid_count(7, 0));
static SYSCALL_OVERWRITES_RCX: LazyLock<bool> =
    LazyLock::new(|| FEATURES.eax < 1 || __cpuid_count(7, 1).eax & 1 << 17 == 0);
static COMPONENT_ENDS: LazyLock<[usize; COMPONENTS]> = LazyLock::new(|| {
    let there = u64::from(AREA.edx) << 32 | u64::from(AREA.eax);
    let mut ends = [0; COMPONENTS];
    for (component, end) in ends.iter_mut().enumerate().skip(2) {
        if there & 1 << component != 0 {
            let leaf = __cpuid_count(0xd, component as u32);
            *end = leaf.eax as usize + leaf.ebx as usize;
        }
    }
    ends
});

/// Asks now what the others here tell, for a caller who will be in a hurry.
pub fn ask() {
    LazyLock::force(&COMPONENT_ENDS);
    LazyLock::force(&SYSCALL_OVERWRITES_RCX);
}

/// Bytes of an xsave area with every component that the kernel has enabled (CPUID leaf 0xD, EBX): what the
/// `NT_X86_XSTATE` register set has.
pub fn xsave_len() -> usize {
    AREA.ebx as usize
}

/// Bytes up to the end of a component of the area (CPUID leaf 0xD, sub-leaf 2 and up); 0 for one that is not there.
pub fn xsave_component_end(component: u32) -> usize {
    COMPONENT_ENDS.get(component as usize).copied().unwrap_or(0)
}

/// Whether the `syscall` instruction leaves its return address in rcx, as it does on processors without FRED (CPUID leaf 7,
/// sub-leaf 1, EAX bit 17).
pub fn syscall_overwrites_rcx() -> bool {
    *SYSCALL_OVERWRITES_RCX
}

/// Whether there are protection keys, and the kernel has them enabled (CPUID leaf 7, ECX bit 4, OSPKE).
pub fn has_protection_keys() -> bool {
    FEATURES.ecx & 1 << 4 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_holds_its_components() {
        let all = xsave_len();
        assert!(all >= 512 + 64);
        // AVX: every x86-64 that has it keeps it right behind the header.
        assert!(matches!(xsave_component_end(2), 0 | 832));
        assert!((0..70).all(|c| xsave_component_end(c) <= all));
    }
}
