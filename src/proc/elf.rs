//! What of an ELF file identifies it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use goblin::elf::Elf;
use goblin::elf::program_header::{PT_NOTE, ProgramHeader};

/// The GNU build id, reading no more than headers and notes. `None` for a file that has none or is no ELF file.
pub fn build_id(file: &File) -> Option<Vec<u8>> {
    const LONGEST_NOTES: u64 = 64 << 10;
    let mut head = vec![0u8; 4096];
    let got = file.read_at(&mut head, 0).ok()?;
    head.truncate(got);
    let header = Elf::parse_header(&head).ok()?;
    let container = if header.e_ident[goblin::elf::header::EI_CLASS] == goblin::elf::header::ELFCLASS64 {
        goblin::container::Container::Big
    } else {
        goblin::container::Container::Little
    };
    let context = goblin::container::Ctx::new(container, header.endianness().ok()?);
    let offset = usize::try_from(header.e_phoff).ok()?;
    let headers = ProgramHeader::parse(&head, offset, usize::from(header.e_phnum), context).ok()?;
    headers.iter().filter(|h| h.p_type == PT_NOTE && h.p_filesz <= LONGEST_NOTES).find_map(|h| {
        let mut notes = vec![0u8; h.p_filesz as usize];
        file.read_exact_at(&mut notes, h.p_offset).ok()?;
        gnu_build_id(&notes, if h.p_align == 8 { 8 } else { 4 })
    })
}

/// Looks for the note of type NT_GNU_BUILD_ID 3 and owner "GNU". Each has three words (length of the owner, length of
/// the description, type), then owner and description, both padded.
fn gnu_build_id(notes: &[u8], align: usize) -> Option<Vec<u8>> {
    let mut rest = notes;
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let (owner_len, len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let start = 12usize.checked_add(owner_len)?.checked_next_multiple_of(align)?;
        let end = start.checked_add(len)?;
        if kind == 3 && rest.get(12..12 + owner_len)? == b"GNU\0" {
            return rest.get(start..end).map(<[u8]>::to_vec);
        }
        rest = rest.get(end.checked_next_multiple_of(align)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note(owner: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [owner.len() as u32, description.len() as u32, kind] {
            out.extend(word.to_le_bytes());
        }
        out.extend(owner);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(description);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn the_right_note_is_found() {
        let notes = [note(b"GNU\0", 1, b"abi"), note(b"Xen\0", 3, b"no"), note(b"GNU\0", 3, b"id678")].concat();
        assert_eq!(gnu_build_id(&notes, 4), Some(b"id678".to_vec()));
        assert_eq!(gnu_build_id(&notes[..20], 4), None);
    }

    #[test]
    fn this_program_parses_and_a_text_does_not() {
        let own = File::open("/proc/self/exe").unwrap();
        let _ = build_id(&own);
        let text = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        assert_eq!(build_id(&text), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = gnu_build_id(&bytes, 4);
            let _ = gnu_build_id(&bytes, 8);
        }
    }
}
