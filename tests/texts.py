"""A little text in two languages, and in both at once."""

ENGLISH = (
    "The committee met on Thursday and decided to submit the report before the end of next week. ",
    "A language model predicts the next word from the words before it; nothing more, and that is a great deal. ",
    "She said that the weather in the mountains had been better than anyone expected, and they stayed longer. ",
)
CHINESE = (
    "会议决定，下周三之前由研发部提交报告，并且通知所有部门的负责人参加讨论。",
    "语言模型根据前面的文字预测后面的文字，看起来简单，其实并不容易。",
    "山里的天气比大家预想的要好，他们于是多住了几天，每天早上都去河边散步。",
)
MIXED = "2024年，我们用 Python 3.11 训练了一个小模型：loss = 1.79，速度 5,310。👍🏽 très bien, naïve café\n\tdef f():\n"
