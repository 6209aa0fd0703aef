"""Cuts an address down to its district: province, city and district, at its beginning, in this
order.

Reading up to the last 区 or 镇 kept the road, the door and the name of the estate. What is not surely
a district is dropped: a name with a road's or a house's character in it, a residential or
industrial 区, a town, a post code.
"""

import re
from typing import Final

_PROVINCES: Final = (
    "北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西"
    "|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
_PROVINCE = rf"(?:中国\s*)?(?:{_PROVINCES})(?:(?:壮族|回族|维吾尔)?自治区|特别行政区|省|市)?"
# Not what stands after a road's name, and not a second 区: 阳光小区朝阳区 is no district.
_C = "(?:[\u3400-\u4dbf\u4e00-\u9fff](?<![路街巷道弄号室栋幢座楼层元组村屯镇乡省市区县]))"
_NO_DISTRICT = "小园社校厂景院苑片库宅墅业发税务活属舍住居营军战禁馆流技学"
_NO_TOWN = "超夜门菜集花鱼股城"
_CITY = rf"{_C}{{1,%d}}?(?<![{_NO_TOWN}])市|{_C}{{1,10}}?自治州|{_C}{{1,4}}?(?:地区|盟)"
_DISTRICT = rf"市?{_C}{{1,12}}?自治[县旗]|市?{_C}{{1,%d}}?(?:(?<![{_NO_DISTRICT}])区|县|旗|(?<![{_NO_TOWN}])市)"
# At the beginning nothing has said that this is a place, so only a short name is taken for one's.
_REGION = re.compile(
    rf"\s*(?:{_PROVINCE}\s*(?:(?:{_CITY % 6})\s*)?(?:{_DISTRICT % 6})?"
    rf"|(?:{_CITY % 4})\s*(?:{_DISTRICT % 6})?"
    rf"|(?:{_DISTRICT % 3}))"
)


def region(address: str) -> str:
    """Its beginning; empty when that is no region."""
    found = _REGION.match(address)
    return found[0] if found else ""
