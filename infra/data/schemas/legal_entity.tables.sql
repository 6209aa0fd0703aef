-- 法人基础信息库. The representative is a person of the population database.
CREATE TABLE entity (
    credit_code              text NOT NULL CHECK (credit_code ~ '^[0-9A-HJ-NPQRTUWXY]{18}$'),
    name                     text NOT NULL,
    kind                     text NOT NULL,
    area                     char(6) NOT NULL,
    capital_fen              bigint NOT NULL CHECK (capital_fen > 0),
    founded                  date NOT NULL,
    status                   text NOT NULL CHECK (status IN ('存续', '吊销', '注销')),
    representative_number    text NOT NULL
);
CREATE TABLE officer (
    credit_code     text NOT NULL,
    position        text NOT NULL CHECK (position IN ('董事', '监事', '经理')),
    identity_number text NOT NULL
);
CREATE TABLE licence (
    number      text NOT NULL,
    credit_code text NOT NULL,
    kind        text NOT NULL,
    issued      date NOT NULL,
    expires     date NOT NULL CHECK (expires > issued)
);
INSERT INTO zaibei_catalogue.asset VALUES
    ('public.entity', '重要', '市场监督管理局登记处', true),
    ('public.officer', '重要', '市场监督管理局登记处', true),
    ('public.licence', '一般', '市场监督管理局许可处', false);
