//! What the processor says of itself. Asked once: under a hypervisor each CPUID is an exit from the guest (8 µs on one
//! host), and there are threads by the thousand to ask for.

use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

/// State components of an xsave area, x87 (0) included: the bits of XCR0.
const COMPONENTS: usize = 63;

static KNOWN: LazyLock<Known> = LazyLock::new(Known::ask);

struct Known {
    xsave_len: usize,
    component_ends: [usize; COMPONENTS],
    syscall_overwrites_rcx: bool,
    protection_keys: bool,
}

impl Known {
    fn ask() -> Self {
        let area = __cpuid_count(0xd, 0);
        let there = u64::from(area.edx) << 32 | u64::from(area.eax);
        let mut component_ends = [0; COMPONENTS];
        for (component, end) in component_ends.iter_mut().enumerate().skip(2) {
            if there & 1 << component != 0 {
                let leaf = __cpuid_count(0xd, component as u32);
                *end = leaf.eax as usize + leaf.ebx as usize;
            }
        }
        let fred = __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax & 1 << 17 != 0;
        let protection_keys = __cpuid_count(7, 0).ecx & 1 << 4 != 0;
        Self { xsave_len: area.ebx as usize, component_ends, syscall_overwrites_rcx: !fred, protection_keys }
    }
}

/// Asks now what the others here tell, for a caller who will be in a hurry.
pub fn ask() {
    LazyLock::force(&KNOWN);
}

/// Bytes of an xsave area with every component that the kernel has enabled (CPUID leaf 0xD, EBX): what the
/// `NT_X86_XSTATE` register set has.
pub fn xsave_len() -> usize {
    KNOWN.xsave_len
}

/// Bytes up to the end of a component of the area (CPUID leaf 0xD, sub-leaf 2 and up); 0 for one that is not there.
pub fn xsave_component_end(component: u32) -> usize {
    KNOWN.component_ends.get(component as usize).copied().unwrap_or(0)
}

/// Whether the `syscall` instruction leaves its return address in rcx, as it does on processors without FRED (CPUID leaf 7,
/// sub-leaf 1, EAX bit 17).
pub fn syscall_overwrites_rcx() -> bool {
    KNOWN.syscall_overwrites_rcx
}

/// Whether there are protection keys, and the kernel has them enabled (CPUID leaf 7, ECX bit 4, OSPKE).
pub fn has_protection_keys() -> bool {
    KNOWN.protection_keys
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
