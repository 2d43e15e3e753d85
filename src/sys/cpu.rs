//! What the processor says of itself.

use std::arch::x86_64::__cpuid_count;

/// Bytes of an xsave area with every component that the kernel has enabled (CPUID leaf 0xD, EBX): what the
/// `NT_X86_XSTATE` register set has.
pub fn xsave_len() -> usize {
    __cpuid_count(0xd, 0).ebx as usize
}

/// Bytes up to the end of a component of the area (CPUID leaf 0xD, sub-leaf 2 and up); 0 for one that is not there.
pub fn xsave_component_end(component: u32) -> usize {
    let leaf = __cpuid_count(0xd, component);
    if leaf.eax == 0 { 0 } else { leaf.eax as usize + leaf.ebx as usize }
}

/// Whether the `syscall` instruction leaves its return address in rcx, as it does on processors without FRED (CPUID leaf 7,
/// sub-leaf 1, EAX bit 17).
pub fn syscall_overwrites_rcx() -> bool {
    __cpuid_count(7, 0).eax < 1 || __cpuid_count(7, 1).eax & 1 << 17 == 0
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
        assert!(xsave_component_end(2) <= all);
    }
}
