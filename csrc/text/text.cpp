#include "text/text.hpp"

namespace aitems::text {

std::uint32_t decode_utf8(const std::uint8_t*& p, const std::uint8_t* end, bool& bad) {
  const std::uint32_t lead = *p++;
  if (lead < 0x80) return lead;
  // Unicode table 3-7: the second byte's range depends on the lead, the others are 80..BF.
  int more;
  std::uint32_t low = 0x80, high = 0xBF, cp;
  if (lead >= 0xC2 && lead <= 0xDF) {
    more = 1;
    cp = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    more = 2;
    cp = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    more = 3;
    cp = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    bad = true;
    return kReplacement;
  }
  for (; more; --more, low = 0x80, high = 0xBF) {
    if (p == end || *p < low || *p > high) {
      bad = true;
      return kReplacement;
    }
    cp = cp << 6 | (*p++ & 0x3F);
  }
  return cp;
}

}  // namespace aitems::text
