#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <vector>

#include "execution.h"

namespace sidetune::emulation {
namespace {

template <class T>
std::vector<T> read_section(std::ifstream& file, const ElfW(Shdr) & section) {
  std::vector<T> content(section.sh_size / sizeof(T));
  file.seekg(static_cast<std::streamoff>(section.sh_offset));
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(content.size() * sizeof(T)));
  return content;
}

// The symbol of the function at `address` of a library's file. Kernels are local to their files, so the dynamic linker, which
// dladdr asks, does not know them.
std::string symbol_at(const char* path, const void* base, const void* address) {
  std::ifstream file(path, std::ios::binary);
  ElfW(Ehdr) header = {};
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header)) return "";
  const auto offset = reinterpret_cast<uintptr_t>(address) - (header.e_type == ET_EXEC ? 0 : reinterpret_cast<uintptr_t>(base));
  ElfW(Shdr) all = {};
  all.sh_offset = header.e_shoff;
  all.sh_size = sizeof(ElfW(Shdr)) * header.e_shnum;
  const auto sections = read_section<ElfW(Shdr)>(file, all);
  for (const ElfW(Shdr) & section : sections) {
    if (section.sh_type != SHT_SYMTAB) continue;
    const auto names = read_section<char>(file, sections.at(section.sh_link));
    for (const ElfW(Sym) & symbol : read_section<ElfW(Sym)>(file, section))
      if (symbol.st_value == offset && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC) return &names.at(symbol.st_name);
  }
  return "";
}

std::string find_name(const void* kernel) {
  Dl_info info = {};
  if (!dladdr(kernel, &info) || !info.dli_fname) return "(unknown)";
  const std::string symbol = symbol_at(info.dli_fname, info.dli_fbase, kernel);
  if (symbol.empty()) return "(unknown)";
  int status = 0;
  char* readable = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  const std::string name = readable ? readable : symbol;
  std::free(readable);
  return name;
}

}  // namespace

std::string kernel_name(const void* kernel) {
  static std::mutex mutex;
  static auto& names = *new std::map<const void*, std::string>;
  const std::lock_guard lock(mutex);
  const auto [place, is_new] = names.emplace(kernel, "");
  if (is_new) place->second = find_name(kernel);
  return place->second;
}

}  // namespace sidetune::emulation
